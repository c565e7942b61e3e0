"""One plain module a tab: what the tab can do, without a browser and without torch."""
