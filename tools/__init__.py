"""A developer's programs: the demo, and the action's step as the runner runs it."""
