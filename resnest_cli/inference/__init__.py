"""From batches to ranked classes: engines and ranking."""
