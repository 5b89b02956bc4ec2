"""Policy: rules as people write them, and the verdicts that follow from them."""
