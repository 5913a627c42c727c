"""What is measured: cases and how they are played, figures with intervals, baselines."""
