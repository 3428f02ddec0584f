"""Families of inputs that a tool could misread in silence: each with members, and what is right for each of them."""
