"""Every approximate method, tuned alike on one half of the forget set, judged on the other."""
