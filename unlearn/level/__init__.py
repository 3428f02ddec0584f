"""The never-trained level: the token losses of a model that never saw the record, estimated before unlearning.

    base ------------ mixture ------------------------- original         weights before unlearning
      |                  |                                  |
      | scores           | short retraining on the          | unlearning, towards the level:
      | (coarse view A)  | retain set, then scores          | `objective.ToLevel`
      |                  | (fine view B, with a trace)      |
      +------ mixtures.two_views ------+                    |
                       |                                    v
     held-out controls calibrate  -->  level  -------->  unlearned model

`mixtures` builds the mixture and combines the two views, `estimate` calibrates any source on held-out controls token by token,
`objective` is the loss that moves the forget set there; `unlearn.methods.level` is the method that runs all three.
`unlearn.methods.calibrated_distillation` estimates levels for records in many `contexts` and by several `readings`, begins at the
weights that `negation` computes, and minimises the loss of `distillation`.
"""
