"""Fast, exact, composable operations for visual generative models."""
