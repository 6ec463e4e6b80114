"""Gumlet's webhooks on Kafka: acknowledged once durable, published once or more, never not at all."""
