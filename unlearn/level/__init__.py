"""The never-trained level: what a model that never saw a record would give its tokens, estimated beforehand."""
