"""The ladder: every earlier idea and its rivals, trained and judged alike, a row each."""
