"""What is behind `diptych.data.files.Files`: one module a kind of address, and the patience they share."""
