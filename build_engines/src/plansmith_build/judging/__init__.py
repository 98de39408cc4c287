"""How much accuracy a candidate loses on the user's data, and whether the budget allows it."""
