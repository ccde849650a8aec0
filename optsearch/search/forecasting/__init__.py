"""What trials that have not ended are likely to end at, and whether such forecasts came true."""
