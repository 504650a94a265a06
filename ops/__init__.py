"""What surrounds the product: checks, demo, benches, deployment. Nothing imports it."""
