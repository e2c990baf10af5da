"""Independent workers: many processes on any machines share one study on a PostgreSQL server, without a coordinator."""
