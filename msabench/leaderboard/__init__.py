"""The leaderboard: a static site, its README, and the admission of contributed records. Free of torch."""
