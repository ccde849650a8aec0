"""Which design to learn next: search spaces, studies, and the workers that run their trials."""
