"""Which searched setting mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leuk_ray.runs.table import RunRecord
from leuk_ray.tuning.searchers import distribution, stored
from leuk_ray.tuning.settings import Dimension

MIN_RUNS = 8


def importance(
    search: Mapping[str, Dimension], records: Sequence[RunRecord]
) -> dict[str, float] | None:
    """Share of the variance of the score that each setting explains (fANOVA, Hutter et al. 2014).

    Runs that were stopped early count with the best they had reached, so that in a sweep with
    a scheduler a setting that slows the start looks worse than it is.

    Returns:
        Full path of the setting -> share, largest first; None for fewer than MIN_RUNS runs, one
        setting, or equal scores, of which nothing can be said.
    """
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    scored = [r for r in records if r.score is not None and r.status != "failed"]
    if len(scored) < MIN_RUNS or len(search) < 2 or len({r.score for r in scored}) < 2:
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    distributions = {key: distribution(dimension) for key, dimension in search.items()}
    for record in scored:
        study.add_trial(
            optuna.trial.create_trial(
                value=record.score,
                params={key: stored(search[key], record.overrides[key]) for key in search},
                distributions=distributions,
            )
        )
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {key: float(share) for key, share in shares.items()}
