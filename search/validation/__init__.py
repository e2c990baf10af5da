"""The published protocol on the test split, step by step: what is measured, kept, shown and drawn."""
