"""The engines: what guards them, reads their statements and retires their pools."""
