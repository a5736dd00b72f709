"""Programs for developers and workflows, such as the demo and the action's step as the runner runs it."""
