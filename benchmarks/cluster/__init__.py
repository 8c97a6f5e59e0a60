"""The program under real schedulers."""
