"""From a page's lines to text that reads as the page does."""
