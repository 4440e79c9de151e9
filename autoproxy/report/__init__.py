"""The report: a static site and figures, made of what runs left behind."""
