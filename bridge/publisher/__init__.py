"""Stage 4: Event to Kafka."""
