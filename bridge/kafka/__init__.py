"""Kafka and schema registry clients."""
