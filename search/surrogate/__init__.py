"""Models of objectives and what a candidate promises under them: numpy only, and nothing of studies or trials."""
