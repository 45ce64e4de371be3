"""Tables, charts and pages, made from records without torch."""
