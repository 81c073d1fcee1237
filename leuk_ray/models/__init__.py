"""Networks, with torch and timm only."""
