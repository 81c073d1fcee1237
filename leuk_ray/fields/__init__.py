"""Fields of view: nucleated cells found in them, cropped, and what is wrong with a field."""
