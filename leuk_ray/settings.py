"""The base of every room's settings."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Typed, immutable, and without room for a misspelt key."""

    model_config = ConfigDict(extra="forbid", frozen=True)
