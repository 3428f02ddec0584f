"""From scores to a verdict: validity gates, the tests of every tier, and the protocol that combines them."""
