"""Stage 3: Delivery to Event, as the schema files define it."""
