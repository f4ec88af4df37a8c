"""What a serving process does, beside what the wire and the runtime alone could, and beside other servers."""
