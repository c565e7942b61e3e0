"""The six tabs: each draws, reads its form, calls its step, and shows what comes back."""
