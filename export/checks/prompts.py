"""Prompts that show a model its usual inputs while the ranges of its activations are measured."""

from __future__ import annotations

CALIBRATION = (
    "a red fox, 3d style",
    "fox, flat style",
    "cheese pizza, 3d style",
    "a slice of pizza, cartoon style",
    "red heart, 3d style",
    "blue car, 3d style",
    "a sports car on a road, flat style",
    "house with garden",
    "grinning face emoji, 3d style",
    "crying face, cartoon style",
    "cat face, 3d style",
    "black cat, flat style",
    "sunflower, 3d style",
    "bouquet of flowers, cartoon style",
    "guitar, 3d style",
    "violin, flat style",
    "rocket, 3d style",
    "octopus, cartoon style",
    "green apple, 3d style",
    "robot, 3d style",
    "snowman, flat style",
    "birthday cake, 3d style",
    "tiger, cartoon style",
    "light bulb object, 3d style",
    "person running activity, flat style",
    "police officer, 3d style",
    "flag of Japan, flat style",
    "warning sign symbol",
    "full moon with face, 3d style",
    "a photo of a mountain lake at sunrise",
    "two wizards playing chess under a purple tree, cartoon style",
    "",
)
CASES = (
    ("a red fox, 3d style", 0),
    ("pepperoni pizza", 1),
    ("a smiling cat with heart eyes, flat style", 2),
    ("rocket", 3),
)
LARGE_CASES = 1  # of them for a model whose pictures take long; its four steps are not compared
