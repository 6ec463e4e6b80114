"""Settings: their definition, validation and rendering."""
