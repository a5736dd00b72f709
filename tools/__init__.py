"""What a developer runs: the demo, and the action step as the runner runs it."""
