"""What 03-rank is made of: pairs from outcomes, ranking by a judge, the estimate of its cost."""
