"""Level table: do models trained on parts of the data tell what a full retraining would say, and does the verdict by them hold?"""
