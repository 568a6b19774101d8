"""Training a challenger, tuning it, and the budget of retrainings."""
