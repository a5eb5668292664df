"""Dagster's servers for one user, without root: database, code servers, daemon and web server, watched over."""
