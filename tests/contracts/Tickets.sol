// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

/// Tickets as tokens of ERC-721, drawn among those who asked for one. Small, for tests: nothing of metadata.
contract Tickets {
    event Transfer(address indexed from, address indexed to, uint256 indexed tokenId);
    event Approval(address indexed owner, address indexed approved, uint256 indexed tokenId);
    event ApprovalForAll(address indexed owner, address indexed operator, bool approved);
    event TicketAllocated(address indexed winner, uint256 indexed tokenId, uint64 eventId, string seat);

    uint256 public total;
    mapping(uint256 => address) private owners;
    mapping(uint256 => address) private approvals;
    mapping(address => mapping(address => bool)) public isApprovedForAll;
    mapping(address => uint256) public balanceOf;

    function supportsInterface(bytes4 id) external pure returns (bool) {
        return id == 0x01ffc9a7 || id == 0x80ac58cd;
    }

    function ownerOf(uint256 tokenId) public view returns (address owner) {
        owner = owners[tokenId];
        require(owner != address(0), "no such ticket");
    }

    function getApproved(uint256 tokenId) public view returns (address) {
        ownerOf(tokenId);
        return approvals[tokenId];
    }

    /// Give a winner so many tickets, an event for each.
    function allocate(address winner, uint64 eventId, string calldata seat, uint256 count) external {
        require(winner != address(0) && count > 0, "nobody, or nothing");
        for (uint256 each = 0; each < count; each++) {
            uint256 tokenId = ++total;
            owners[tokenId] = winner;
            balanceOf[winner]++;
            emit Transfer(address(0), winner, tokenId);
            emit TicketAllocated(winner, tokenId, eventId, seat);
        }
    }

    function approve(address to, uint256 tokenId) external {
        address owner = ownerOf(tokenId);
        require(msg.sender == owner || isApprovedForAll[owner][msg.sender], "not yours");
        approvals[tokenId] = to;
        emit Approval(owner, to, tokenId);
    }

    function setApprovalForAll(address operator, bool approved) external {
        isApprovedForAll[msg.sender][operator] = approved;
        emit ApprovalForAll(msg.sender, operator, approved);
    }

    function transferFrom(address from, address to, uint256 tokenId) public {
        address owner = ownerOf(tokenId);
        require(owner == from && to != address(0), "not from there, or to nobody");
        require(
            msg.sender == owner || approvals[tokenId] == msg.sender || isApprovedForAll[owner][msg.sender],
            "not yours"
        );
        delete approvals[tokenId];
        balanceOf[from]--;
        balanceOf[to]++;
        owners[tokenId] = to;
        emit Transfer(from, to, tokenId);
    }
}
