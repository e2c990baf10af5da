"""The nineteen corruptions of Hendrycks & Dietterich (2019), batched and seeded by image, one family a file."""
