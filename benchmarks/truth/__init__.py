"""The truth report: every claim of the texts as a small object with a measure and a verdict."""
