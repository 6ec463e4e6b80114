"""Metrics, health, traces, logs, and the recent activity that the admin page shows."""
