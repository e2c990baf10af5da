"""A study's life: command line, storage, samplers, coordinator and engines, front, pick, deploy."""
