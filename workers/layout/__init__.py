"""From the lines that an engine found on a page to text that reads as the page does, in Markdown."""
