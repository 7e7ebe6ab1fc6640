"""Figures that compare distributions: pictures of a prompt beside what the data holds for the same prompt."""
