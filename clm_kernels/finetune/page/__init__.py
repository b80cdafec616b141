"""`report.html`: what a run has to say for itself, on one page that asks nobody for anything."""
