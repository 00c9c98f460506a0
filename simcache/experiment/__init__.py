"""Many scenarios under many seeds: studies, the runs kept by content, comparisons as pairs."""
