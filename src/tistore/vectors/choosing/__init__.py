"""Which of a trait's vectors its bare name means."""
