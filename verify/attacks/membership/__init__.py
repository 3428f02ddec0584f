"""Membership inference attacks, one file each: was this record trained on?"""
