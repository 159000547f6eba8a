"""Studies while they run: what a budget is, what is tried, how a trial is trained, what lies in a study's folder."""
